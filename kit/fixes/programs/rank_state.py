"""Save and resume what each process of a SimpleTuner run has of its own."""

from __future__ import annotations

from kit.fixes._table import Put, Swap, table

TITLE = "save and resume every process's own state"
WHY = """\
Without DeepSpeed and FSDP the first process alone saves a checkpoint. The random numbers of the others, and which
images of their shares they have had, are in none; what they look for when they resume (`training_state-1-….json`) has
another name than what they would save (`training_state-rank1-….json`). So they draw their noise anew from the seed, and
begin their shares anew. Here each saves its own at the checkpoints that come every so many steps, and finds it."""
LINKS = ()
NEEDS = ("os",)

_METHOD = '''\
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
'''
_CALL = """\
if scheduled_checkpoint_due:
    self._save_own_state()
"""

sites, edits = table(
    Swap(
        "Trainer.init_resume_checkpoint",
        "training_state_filename = f'training_state-",
        'f"training_state-{get_rank()}.json"',
        'f"training_state-rank{get_rank()}.json"',
    ),
    Put("Trainer", "def checkpoint_state_save(", _METHOD, how="before"),
    Put("Trainer.train", "if manual_checkpoint_requested or scheduled_checkpoint_due:", _CALL),
)
