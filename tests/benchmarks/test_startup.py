import pytest

from benchmarks import startup
from train.cli import RunError


def test_commands_are_timed():
    seconds = startup.time_command(["-c", "import time; time.sleep(0.1)"], rounds=2)
    assert len(seconds) == 2
    assert all(0.1 < s < 10 for s in seconds)


def test_a_command_that_fails_is_named():
    with pytest.raises(RunError, match=r"`python -c exit\('gone'\)` failed: gone"):
        startup.time_command(["-c", "exit('gone')"], rounds=1)


@pytest.mark.slow
def test_phases_of_the_first_step_add_up(capsys, registered_net):
    """With an empty and with a filled compilation cache."""
    found = startup.first_steps(registered_net, 4)  # a multiple of the simulated devices
    assert set(found) == {"cold", "warm"}
    for phases in found.values():
        assert sum(phases.values()) == pytest.approx(2 * phases["all"], abs=0.01)
        assert phases["compile and run the step"] > 0
    startup.show(
        {
            "model": registered_net,
            "batch_size": 4,
            "seconds": {"x": [1.0, 3.0]},
            "first_step": found,
        }
    )
    assert "1.00-3.00" in capsys.readouterr().out
