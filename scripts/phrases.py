"""How well two-level policies predict held-out episodes, their phrases and their actions:

python scripts/phrases.py 'runs={rth: RUN, flat: RUN}' flat=flat
"""

from omegaconf import DictConfig

from embodied.commands import command


@command("phrases")
def main(config: DictConfig) -> None:
    run(config)


def run(config: DictConfig) -> None:
    import json
    from pathlib import Path

    from embodied.build import instantiate, resolve
    from embodied.phrase_exam import examine_runs
    from embodied.results import write_atomically

    plain = resolve(config)
    task = plain["task"]
    if task["collect"]:
        instantiate(task["collect"])(instantiate(task["suite"]))
    found = examine_runs(
        {name: Path(path) for name, path in plain["runs"].items()},
        instantiate(task["episodes"]),
        label=task["label"],
        flat=plain["flat"],
        frames=plain["frames"],
        seed=plain["seed"],
        device=plain["device"],
    )
    text = json.dumps(found, indent=1)
    if plain["output"]:
        write_atomically(Path(plain["output"]), text + "\n")
    print(text)


if __name__ == "__main__":
    main()
