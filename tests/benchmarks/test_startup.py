import pytest

from benchmarks import startup
from train.cli import RunError


def test_every_start_is_timed():
    seconds = startup.waits(["-c", "import time; time.sleep(0.1)"], rounds=2)
    assert len(seconds) == 2
    assert all(0.1 < s < 10 for s in seconds)


def test_a_command_that_fails_is_named():
    with pytest.raises(RunError, match=r"`python -c exit\('gone'\)` failed: gone"):
        startup.waits(["-c", "exit('gone')"], rounds=1)


@pytest.mark.slow
def test_the_way_to_the_first_step(capsys):
    """Parts that add up, with an empty cache of compiled programs and with a filled one."""
    found = startup.first_steps("alexnet_tiny", 4)  # a multiple of the simulated devices
    assert set(found) == {"cold", "warm"}
    for parts in found.values():
        assert sum(parts.values()) == pytest.approx(2 * parts["all"], abs=0.01)
        assert parts["compile and run the step"] > 0
    startup.show(
        {
            "model": "alexnet_tiny",
            "batch_size": 4,
            "seconds": {"x": [1.0, 3.0]},
            "first_step": found,
        }
    )
    assert "1.00-3.00" in capsys.readouterr().out
