"""Meta-World's simulators beside the library's own: steps, resets, and MT50 from nothing.

    OMP_NUM_THREADS=1 python -m scripts.bench.metaworld

Steps: MT10 with random actions, by gymnasium's vector environments and by ours with no worker, one
and two. Resets: the library's `env.reset()` and ours, to goals that the process has never visited
and to goals that it has, on MT10 and on the ten tasks of MT50 where the placing of objects stirs
the hand's settling. MT50: a new Python process that ends with all 50 tasks reset, imports included,
with no compiled model on disk and with all of them.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    # Late, as in the framework's own scripts: worker processes import this file anew.
    from scripts.bench._metaworld import run

    run(argv, __doc__ or "")


if __name__ == "__main__":
    main()
