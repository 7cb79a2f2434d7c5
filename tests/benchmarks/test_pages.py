"""Pages from docstrings and `--help`."""

import types

import pytest

from benchmarks import pages, tables


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        (
            "We assume:\n- one\n  more\n- two\nAfter.",
            "We assume:\n\n- one\n  more\n- two\n\nAfter.",
        ),
        ("Names:\n    a   b\n", "Names:\n\n    a   b\n"),
        ("In OUT/<paper>/ or `<row>`.", "In OUT/&lt;paper>/ or `<row>`."),
        ("    code <x>", "    code <x>"),
        ("```text\n- a\n<x>\n```", "```text\n- a\n<x>\n```"),
        ("- a\n\n- b\n\nText.\n", "- a\n\n- b\n\nText.\n"),
        ("x < y and 1 <- 2", "x < y and 1 <- 2"),
    ],
)
def test_docstrings_become_markdown(docstring, markdown):
    assert pages.as_markdown(docstring) == markdown
    assert pages.as_markdown(markdown) == markdown


def test_short_lines_end_paragraphs_where_asked():
    long = "So long that the next word would not have fitted into the line, which is filled to its margin."
    text = f"Stated: nothing.\n{long}\nMore.\nOurs: all.\n- a.\n- b."
    assert pages.as_markdown(text, ragged=True) == (
        f"Stated: nothing.\n\n{long}\nMore.\n\nOurs: all.\n\n- a.\n- b."
    )
    assert pages.as_markdown(text).startswith("Stated: nothing.\nSo long")


def test_examples_in_a_line_become_code():
    text = pages.with_examples("Train:  python -m a.b --c\n\nMore.\n\n    python -m kept")
    assert text == "Train:\n\n    python -m a.b --c\n\nMore.\n\n    python -m kept"


def test_every_command_has_a_page_with_its_flags():
    assert {"train.run", "train.reproduce", "benchmarks.tables"} <= set(pages.commands())
    page = pages.command_page("train.predict")
    assert page.startswith(f"# train.predict\n\n{pages.GENERATED}\n\n")
    assert "usage: python -m train.predict" in page and "\n--top-k INT " in page
    assert "│" not in page and "\x1b" not in page
    page = pages.command_page("train.data")
    assert "\n## train.data show\n" in page and "\n--augment.rotation FLOAT" in page


def test_help_does_not_depend_on_the_terminal(monkeypatch):
    texts = set()
    for columns in ("40", "200", None):
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        else:
            monkeypatch.delenv("COLUMNS")
        texts.add(pages.help_text(pages.load_command("train.evaluate"), ()))
    assert len(texts) == 1 and max(map(len, texts.pop().splitlines())) > 40


def test_weights_that_differ_in_size_share_a_row():
    import zoo

    rows = pages.weights_rows(zoo.get_entry("mobilenet_v2"))
    assert [row[1] for row in rows] == [
        "`torchvision`",
        "`torchvision_v2`",
        "`keras`",
        "`keras_no_top`",
    ]
    assert rows[2][3] == "96, 128, 160, 192, 224" and rows[2][6].endswith(" and 29 more")


def test_markers_of_markdown_and_yaml_keep_their_indentation(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "a-b", lambda folder: "one\n\ntwo\n")
    text = "x\n<!-- a-b:begin -->\nold\n<!-- a-b:end -->\ny:\n  # a-b:begin\n  # a-b:end\n"
    assert tables.render(text, tables.ROOT) == (
        "x\n<!-- a-b:begin -->\none\n\ntwo\n<!-- a-b:end -->\n"
        "y:\n  # a-b:begin\n  one\n\n  two\n  # a-b:end\n"
    )


def test_pages_of_what_is_gone_are_removed(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    for name, text in {
        "alexnet": pages.GENERATED,
        "gone": f"# gone\n\n{pages.GENERATED}\n",
        "index": "# Models\n",
    }.items():
        (tmp_path / "models" / f"{name}.md").write_text(text)
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    assert tables.stale() == [tmp_path / "models" / "gone.md"]


def test_options_are_shown_as_code():
    assert pages.show_option((1, 2)) == "(1, 2)"
    assert pages.show_option(float) == "float"
    assert pages.show_option("torch") == "'torch'"
    assert pages.input_size(types.SimpleNamespace(input_shape=(28, 28, 3))) == "28x28"
