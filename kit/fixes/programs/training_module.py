"""Train the U-Net and the text encoders of kohya's SDXL script as one module, whose forward data parallelism sees."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "one training module, prepared together with the optimizer"
WHY = """\
accelerate wraps each model for data parallelism, and the script unwraps it again at once (transform_models_if_DDP):
its forward is never that of the wrapper, so gradients are never exchanged and every process trains a model of its
own. Here all that trains is one module (library/pretrain.py, from the overlay) with one forward a step, from token
ids to the predicted noise; it is prepared together with the optimizer, which OSS needs to shard gradients. Mixed
precision, text encoders that stay frozen, their cached outputs and sample images work as before."""
LINKS = (
    "https://github.com/kohya-ss/sd-scripts/issues/924",
    "https://github.com/kohya-ss/sd-scripts/pull/989",
)
NEEDS = ("train_util",)

sites, edits = table(
    Put("", "import library.sdxl_train_util", "from library.pretrain import TrainingModule, collect_state"),
    Put(
        "train",
        "if train_unet:\n    unet = accelerator.prepare(unet)",
        """
        encoders, tokenizers = (text_encoder1, text_encoder2), (tokenizer1, tokenizer2)
        training_module = TrainingModule(args, weight_dtype, unet, encoders, tokenizers, training_models)
        prepared = accelerator.prepare(training_module, optimizer, train_dataloader, lr_scheduler)
        training_module, optimizer, train_dataloader, lr_scheduler = prepared
        training_models = [training_module]
        """,
        how="replace",
        to="optimizer, train_dataloader, lr_scheduler = ",
    ),
    Put(
        "train",
        "if 'text_encoder_outputs1_list' not in batch",
        """
        add_noise = train_util.get_noise_noisy_latents_and_timesteps
        noise, noisy_latents, timesteps = add_noise(args, noise_scheduler, latents)
        noisy_latents = noisy_latents.to(weight_dtype)

        # Encode the text and predict the noise residual
        with accelerator.autocast():
            noise_pred = training_module(batch, noisy_latents, timesteps)
        """,
        how="replace",
        to="with accelerator.autocast():",
    ),
)
