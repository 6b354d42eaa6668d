"""rank-state: before and after, and what it refuses. That runs resume: `kit verify --parity` of hidream-lokr."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "rank-state"

BEFORE = """
import os

class Trainer:
    def init_resume_checkpoint(self):
        training_state_filename = f"training_state.json"
        if get_rank() > 0:
            training_state_filename = f"training_state-{get_rank()}.json"

    def checkpoint_state_save(self, output_dir, suffix=None):
        pass

    def train(self):
        while True:
            if manual_checkpoint_requested or scheduled_checkpoint_due:
                self.save()
            step += 1
"""
AFTER = '''
import os

class Trainer:
    def init_resume_checkpoint(self):
        training_state_filename = f"training_state.json"
        if get_rank() > 0:
            training_state_filename = f"training_state-rank{get_rank()}.json"

    def _save_own_state(self):
        """Add to a checkpoint what the processes beside the first have of their own: random numbers, images they had."""
        if self.accelerator.num_processes == 1 or self.config.use_deepspeed_optimizer or self.config.fsdp_enable:
            return
        from accelerate.checkpointing import save_accelerator_state

        self.accelerator.wait_for_everyone()  # the first has made the folder
        if self.accelerator.is_main_process:
            return
        folder = os.path.join(self.config.output_dir, f"checkpoint-{self.state['global_step']}")
        path = os.path.join(folder, self.model_hooks.training_state_path)
        save_accelerator_state(folder, [], [], [], [], self.accelerator.process_index, self.accelerator.step)
        StateTracker.save_training_state(path)
        for backend in StateTracker.get_data_backends().values():
            if "sampler" in backend:
                backend["sampler"].save_state(state_path=path)

    def checkpoint_state_save(self, output_dir, suffix=None):
        pass

    def train(self):
        while True:
            if manual_checkpoint_requested or scheduled_checkpoint_due:
                self.save()
            if scheduled_checkpoint_due:
                self._save_own_state()
            step += 1
'''  # noqa: E501 - as it is written into upstream's file

APPLIED = [case("name, method and call", BEFORE, AFTER, count=3)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("another class", BEFORE.replace("Trainer", "Runner")),
    conflict("one of three", "expected 3 places to fix, found 2", 7, BEFORE.replace("manual_", "epoch_"), count=3),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
