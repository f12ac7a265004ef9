"""Contracts that every part must keep, ours and third parties' alike; needs no test framework.

    def test_my_head_keeps_the_contract() -> None:
        check_head(MyHead(...), context, action)

Each `check_*` raises an AssertionError that says what was expected and what was found, or lets
through the error of the part itself. What a check does to a module is undone before it returns.
"""

from embodied.testing.algorithms import check_algorithm
from embodied.testing.policies import check_head, check_policy
from embodied.testing.worlds import check_env, check_episodes

__all__ = ["check_algorithm", "check_env", "check_episodes", "check_head", "check_policy"]
