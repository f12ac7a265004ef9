"""Whether the words of a person suffice for a task: what an arm achieves that does to the letter
what they say, beside the expert whose motions they put in words.

python scripts/words.py [person=motions] [task=metaworld_phrases] [protocol=mt-v3] [gain=0.7]
"""

from omegaconf import DictConfig

from embodied.commands import command


@command("words")
def main(config: DictConfig) -> None:
    print(table(config))


def table(config: DictConfig) -> str:
    """Success of each task, and in all, with 95 % intervals, as Markdown."""
    from functools import partial

    from embodied.actors import ExpertActor
    from embodied.build import instantiate, resolve
    from embodied.evaluation import evaluate
    from embodied.people.literal import Literal
    from embodied.simulators import open_envs
    from embodied.statistics import wilson

    plain = resolve(config)
    suite = instantiate(plain["task"]["suite"])
    protocol = instantiate(plain["protocol"])
    obey = partial(
        Literal,
        suite=suite,
        corrector=instantiate(plain["person"]["corrector"]),
        **{name: plain[name] for name in ("gain", "every", "keeps")},
    )
    ways = {
        "expert": lambda each: suite.expert(each.task, seed=each.seed),
        "words": lambda each: obey(assignment=each),
    }
    assignments = protocol.assignments(suite)
    rules = {"max_steps": protocol.max_steps, "success": protocol.success}
    rows = {task: [task] for task in (*dict.fromkeys(a.task for a in assignments), "all")}
    with open_envs(suite, plain["env"]) as envs:
        (size,) = envs.single_action_space.shape
        for name, choose in ways.items():
            actor = ExpertActor(choose, envs.num_envs, action_dim=size)
            outcomes = evaluate(actor, envs, assignments, **rules, description=name)
            for task, row in rows.items():
                of_task = [x.success for x in outcomes if task in ("all", x.assignment.task)]
                found = wilson(sum(of_task), len(of_task))
                row.append(f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]")
    head = ["task", *ways]
    lines = [head, ["---"] * len(head), *rows.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
