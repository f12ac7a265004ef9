"""MT10 environment steps per second: our vector environment against gymnasium's.

    python -m scripts.bench.evaluation [--rounds 5] [--seconds 3]

gymnasium's run the library's own environments, `gym.make_vec("Meta-World/MT10")`: ten, one for each
task. Ours run the same tasks in as many slots, and in twice as many, on our simulators and, where
it is installed, on EnvPool's. Three things are timed: making them and resetting all once, steps
with the same random actions, and evaluation with a policy.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    # Late, as in the framework's own scripts: worker processes import this file anew.
    from scripts.bench._evaluation import run

    run(argv, __doc__ or "")


if __name__ == "__main__":
    main()
