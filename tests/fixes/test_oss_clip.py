"""oss-clip: clip sharded gradients by their norm over all processes."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "oss-clip"

APPLIED = [
    case(
        "as in the library",
        """
        class Accelerator:
            def clip_grad_norm_(self, parameters, max_norm, norm_type=2):
                self.unscale_gradients()
                return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
        """,
        """
        class Accelerator:
            def clip_grad_norm_(self, parameters, max_norm, norm_type=2):
                self.unscale_gradients()
                from .sharded import clip_sharded

                norm = clip_sharded(self._optimizers, max_norm, norm_type)
                if norm is not None:
                    return norm
                return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
        """,
    ),
    case(
        "beside FSDP2's, from 1.6",
        """
        class Accelerator:
            def clip_grad_norm_(self, parameters, max_norm, norm_type=2):
                if self.fsdp2:
                    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
                return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
        """,
        """
        class Accelerator:
            def clip_grad_norm_(self, parameters, max_norm, norm_type=2):
                if self.fsdp2:
                    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
                from .sharded import clip_sharded

                norm = clip_sharded(self._optimizers, max_norm, norm_type)
                if norm is not None:
                    return norm
                return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        class Accelerator:
            def clip_grad_norm_(self, parameters, max_norm, norm_type=2):
                self.unscale_gradients()
                from .sharded import clip_sharded

                norm = clip_sharded(self._optimizers, max_norm, norm_type)
                if norm is not None:
                    return norm
                return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
        """,
    ),
    gone(
        "by value",
        """
        class Accelerator:
            def clip_grad_value_(self, parameters, clip_value):
                torch.nn.utils.clip_grad_value_(parameters, clip_value)
        """,
    ),
    conflict(
        "no norm_type",
        "`norm_type` is not bound",
        3,
        """
        class Accelerator:
            def clip_grad_norm_(self, parameters, max_norm):
                return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
