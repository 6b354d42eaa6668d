"""torch.npu.random: the functions of the random streams, under the name by which transformers 4.47.1 reaches them."""

from kit_standin.device import (  # noqa: F401
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
