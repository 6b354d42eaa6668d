"""training-module: train the U-Net and the text encoders as one module."""

from __future__ import annotations

from fixing import case, conflict, gone, tables

NAME = "training-module"

APPLIED = [
    case(
        "as in the script",
        """
        import library.train_util as train_util
        import library.sdxl_train_util as sdxl_train_util


        def train(args):
            unet = load_unet(args)
            if train_unet:
                training_models.append(unet)

            # prepare
            if train_unet:
                unet = accelerator.prepare(unet)
                (unet,) = train_util.transform_models_if_DDP([unet])
            optimizer, train_dataloader, lr_scheduler = accelerator.prepare(optimizer, train_dataloader, lr_scheduler)

            for batch in train_dataloader:
                with accelerator.accumulate(*training_models):
                    latents = encode(batch)

                    if "text_encoder_outputs1_list" not in batch or batch["text_encoder_outputs1_list"] is None:
                        hidden = encode_text(batch)
                    vector_embedding = torch.cat([pool2, embs], dim=1)

                    # Predict the noise residual
                    with accelerator.autocast():
                        noise_pred = unet(noisy_latents, timesteps, text_embedding, vector_embedding)

                    target = noise
        """,
        """
        import library.train_util as train_util
        import library.sdxl_train_util as sdxl_train_util
        from library.pretrain import TrainingModule, collect_state


        def train(args):
            unet = load_unet(args)
            if train_unet:
                training_models.append(unet)

            # prepare
            encoders, tokenizers = (text_encoder1, text_encoder2), (tokenizer1, tokenizer2)
            training_module = TrainingModule(args, weight_dtype, unet, encoders, tokenizers, training_models)
            prepared = accelerator.prepare(training_module, optimizer, train_dataloader, lr_scheduler)
            training_module, optimizer, train_dataloader, lr_scheduler = prepared
            training_models = [training_module]

            for batch in train_dataloader:
                with accelerator.accumulate(*training_models):
                    latents = encode(batch)

                    add_noise = train_util.get_noise_noisy_latents_and_timesteps
                    noise, noisy_latents, timesteps = add_noise(args, noise_scheduler, latents)
                    noisy_latents = noisy_latents.to(weight_dtype)

                    # Encode the text and predict the noise residual
                    with accelerator.autocast():
                        noise_pred = training_module(batch, noisy_latents, timesteps)

                    target = noise
        """,
        count=3,
    ),
]

REFUSED = [
    gone(
        "another script",
        """
        def main(args):
            unet = accelerator.prepare(unet)
        """,
    ),
    conflict(
        "only the import",
        "expected 3 places to fix, found 1 (lines 2)",
        2,
        """
        import library.train_util as train_util
        import library.sdxl_train_util as sdxl_train_util
        """,
        count=3,
    ),
    conflict(
        "nothing to prepare it with",
        "in a way that this fix cannot edit",
        2,
        """
        import library.train_util as train_util
        import library.sdxl_train_util as sdxl_train_util


        def train(args):
            unet = load_unet(args)
            if train_unet:
                unet = accelerator.prepare(unet)
            return
        """,
        count=2,
    ),
    conflict(
        "no train_util",
        "`train_util` is not bound",
        1,
        """
        import library.sdxl_train_util as sdxl_train_util
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
