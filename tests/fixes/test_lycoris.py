"""lycoris: before and after, and what it refuses."""

from __future__ import annotations

from fixing import case, conflict, gone, run, satisfied, tables

NAME = "lycoris"

BEFORE = """
        import argparse

        def parse_args():
            parser = argparse.ArgumentParser()
            parser.add_argument("--lora_layers", type=str, default=None)

            return parser.parse_args([])

        def main(args, transformer, LoraConfig):
            config = LoraConfig(r=4)
            transformer.add_adapter(config)

            def load_model_hook(transformer_):
                transformer_.add_adapter(config)
        """
AFTER = """
        import argparse

        def parse_args():
            parser = argparse.ArgumentParser()
            parser.add_argument("--lora_layers", type=str, default=None)
            parser.add_argument("--lycoris_config", help="A LyCORIS configuration: its adapter is trained, not a LoRA.")

            return parser.parse_args([])

        def main(args, transformer, LoraConfig):
            config = LoraConfig(r=4)
            if args.lycoris_config is not None:
                from lycoris_adapter import use_lycoris

                use_lycoris(transformer, args.lycoris_config, globals())
            else:
                transformer.add_adapter(config)

            def load_model_hook(transformer_):
                transformer_.add_adapter(config)
        """

APPLIED = [case("both places", BEFORE, AFTER, count=2)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("no adapter", "import argparse\nparser.add_argument('--rank')\n"),
    conflict("only one is expected", "expected 1 place to fix, found 2 (lines 5, 11)", 5, BEFORE),
    conflict("no parser", "`argparse` is not bound", 2, "def main(transformer):\n    transformer.add_adapter(1)\n"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_without_the_option_all_is_as_before() -> None:
    class Model:
        def add_adapter(self, config: str) -> None:
            self.config = config

    script, model = run(APPLIED[0].values[0].after), Model()
    script["main"](script["parse_args"](), model, lambda r: f"rank {r}")
    assert model.config == "rank 4"
