"""prompt-once: before and after, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, gone, run, satisfied

NAME = "prompt-once"

SCRIPT = """\
def main(data, loader, encode, prior=False):
    text_encoder_one, text_encoder_two, tokenizer_one, tokenizer_two = encode, encode, 1, 2
    text_encoders, tokenizers = [text_encoder_one, text_encoder_two], [tokenizer_one, tokenizer_two]

    def compute_text_embeddings(prompts, text_encoders, tokenizers):
        return text_encoders[0](prompts)

    if not data.custom_instance_prompts:
        prompt_embeds, pooled_prompt_embeds, instance_text_ids = encode(["a dog", "a cat"] if prior else "a dog")
        del text_encoder_one, text_encoder_two, tokenizer_one, tokenizer_two
{freed}        clear()
    trained = []
    for prompts in loader:
        if data.custom_instance_prompts:
            prompt_embeds, pooled_prompt_embeds, text_ids = compute_text_embeddings(prompts, text_encoders, tokenizers)
        else:
            if data.trains_encoder:
                pass
            else:
{embeds}        trained.append((list(prompt_embeds), list(pooled_prompt_embeds), text_ids))
    return trained, list(locals())
"""
FREED = "        del text_encoders, tokenizers\n"
ENCODED = """\
                # of this batch
                prompt_embeds, pooled_prompt_embeds, text_ids = compute_text_embeddings(
                    prompts, text_encoders, tokenizers
                )
"""
REPEATED = """\
                # of this batch
                text_ids = instance_text_ids
                # a row for each prompt, encoded before training: repeated for the first batch, then as long as any
                times, encoded = len(prompts) // len(prompt_embeds), (prompt_embeds, pooled_prompt_embeds)
                prompt_embeds, pooled_prompt_embeds = (each.repeat_interleave(times, dim=0) for each in encoded)
"""
BEFORE, AFTER = SCRIPT.format(freed="", embeds=ENCODED), SCRIPT.format(freed=FREED, embeds=REPEATED)

APPLIED = [case("as in the script", BEFORE, AFTER, count=2)]

REFUSED = [
    satisfied("there", AFTER),
    gone(
        "encoded for captions of their own",
        "def main(data):\n    if data.custom_instance_prompts:\n"
        "        x = compute_text_embeddings(prompts, text_encoders, tokenizers)\n",
    ),
    gone("a batch of which it is not known", BEFORE.partition("    if not data")[0]),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)


class Rows(list[str]):
    """Embeddings, a row each, as a tensor repeats them."""

    def repeat_interleave(self, times: int, dim: int) -> Rows:
        return Rows(each for each in self for _ in range(times))


@pytest.mark.parametrize("prior", [False, True])
def test_it_is_encoded_once_to_the_same(prior: bool) -> None:
    batch = ["a dog", "a dog", "a cat", "a cat"] if prior else ["a dog", "a dog"]
    trained = []
    for text, times, kept in ((BEFORE, 4, True), (AFTER, 1, False)):
        encoded: list[object] = []

        def encode(prompts: str | list[str], encoded: list[object] = encoded) -> tuple[Rows, Rows, str]:
            encoded.append(prompts)
            rows = Rows([prompts] if isinstance(prompts, str) else prompts)
            return rows, rows, "ids"

        data = SimpleNamespace(custom_instance_prompts=None, trains_encoder=False)
        found, names = run(text, clear=lambda: None)["main"](data, [batch] * 3, encode, prior)
        trained.append(found)
        assert len(encoded) == times
        assert ("text_encoders" in names) == kept
    assert trained[0] == trained[1] == [(batch, batch, "ids")] * 3
