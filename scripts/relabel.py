"""Labels recorded episodes in hindsight: python scripts/relabel.py path=PATH label=motions

The labels lie beside the data, which stay as they are; `undo=motions` removes them. Without a label
it lists those that there are.
"""

from omegaconf import DictConfig

from embodied.commands import command


@command("relabel")
def main(config: DictConfig) -> None:
    run(config)


def run(config: DictConfig) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from embodied.build import instantiate, resolve
    from embodied_datasets.formats import open_episodes
    from embodied_datasets.labels import add_layer, layers, remove_layer

    plain, path = resolve(config), Path(config.path)
    if plain["undo"]:
        remove_layer(path, plain["undo"])
    elif plain["label"]:
        name = plain["name"] or HydraConfig.get().runtime.choices["label"]
        names = (
            [each for each in layers(path) if each != name]
            if plain["labels"] is None
            else plain["labels"]
        )
        episodes = open_episodes(
            path, format=plain["format"], labels=names, **(plain["options"] or {})
        )
        add_layer(path, name, instantiate(plain["label"]), episodes)
    print(f"labels of {path}: {', '.join(layers(path)) or 'none'}")


if __name__ == "__main__":
    main()
