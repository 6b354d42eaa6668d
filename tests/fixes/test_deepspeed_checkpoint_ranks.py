"""deepspeed-checkpoint: what every rank must do alike, and what one alone should."""

from __future__ import annotations

from fixing import case, conflict, tables
from test_deepspeed_checkpoint import BOTH, FROM, HOOKED, NAME, OPEN, imports, refused

UNLIKE = "may differ from process to process"
APPLIED = [
    case(
        id,
        f"{BOTH}def main(accelerator):\n    if accelerator.is_main_process:\n{before}",
        f"{BOTH}def main(accelerator):\n    if {OPEN}:\n{after or before}",
    )
    for id, before, after in [
        (
            "a folder and a test of names, attributes and text",
            "        path = os.path.join(args.out, f'{step:06d}')\n"
            "        if step % args.every == 0 and len(path) > 1:\n"
            "            accelerator.save_state(path)\n",
            "",
        ),
        (
            "a folder that a function works out",
            "        accelerator.save_state(folder(1))\ndef folder(n):\n    made = os.path.join('out', f'{n:06d}')\n"
            "    os.makedirs(made, exist_ok=True)\n    return made\n",
            "",
        ),
        ("below no_grad", "        with torch.no_grad():\n            accelerator.save_state(1)\n", ""),
        (
            "what is only tried once",
            "        for step in range(3):\n            try:\n                accelerator.save_state(step)\n"
            "            except OSError:\n                pass\n",
            "",
        ),
        (
            "a loss that was gathered",
            "        if best < accelerator.seen:\n            accelerator.save_state(1)\n",
            "",
        ),
        (
            "what only looks harmless by its name",
            "        accelerator.save_state(1)\n        wandb.config.update({})\n        requests.get(1)\n"
            "        print(1, file=log)\n        registry.append(1)\n",
            "        accelerator.save_state(1)\n        if accelerator.is_main_process:\n"
            "            wandb.config.update({})\n            requests.get(1)\n            print(1, file=log)\n"
            "            registry.append(1)\n",
        ),
        (
            "containers of the script's own, and progress bars",
            "        seen = []\n        seen.append(1)\n        progress_bar.update(1)\n"
            "        print(1, file=sys.stderr)\n        tqdm.write(1)\n"
            "        print(1, flush=True)\n        accelerator.print(1)\n"
            "        accelerator.save_state(1)\n",
            "",
        ),
        (
            "texts changed, and a file",
            "        accelerator.save_state(1)\n        print(out.replace('/', '-'))\n        path.replace(last)\n",
            "        accelerator.save_state(1)\n        print(out.replace('/', '-'))\n"
            "        if accelerator.is_main_process:\n            path.replace(last)\n",
        ),
        (
            "folders that may be there, and others",
            "        accelerator.save_state(1)\n        os.makedirs(a, exist_ok=True)\n        b.mkdir(parents=True)\n"
            "        os.makedirs(c, exist_ok=args.again)\n",
            "        accelerator.save_state(1)\n        os.makedirs(a, exist_ok=True)\n"
            "        if accelerator.is_main_process:\n            b.mkdir(parents=True)\n"
            "            os.makedirs(c, exist_ok=args.again)\n",
        ),
        (
            "a writer handed to `map`",
            "        accelerator.save_state(1)\n        list(map(main, [1]))\n",
            "        accelerator.save_state(1)\n        if accelerator.is_main_process:\n"
            "            list(map(main, [1]))\n",
        ),
        (
            "other weights put back before the save",
            "        ema.copy_to(model)\n        ema.restore(model)\n        accelerator.save_state(1)\n",
            "        if accelerator.is_main_process:\n            ema.copy_to(model)\n            ema.restore(model)\n"
            "        accelerator.save_state(1)\n",
        ),
        (
            "a method that sets nothing the save reads",
            "        self.tell()\n        accelerator.save_state(self.folder)\n    def tell(self):\n"
            "        open(1, 'w')\n",
            "        if accelerator.is_main_process:\n            self.tell()\n"
            "        accelerator.save_state(self.folder)\n    def tell(self):\n        open(1, 'w')\n",
        ),
    ]
]
APPLIED += [
    *(
        case(
            id,
            f"{BOTH}def main(accelerator):\n{text.replace('{gate}', 'accelerator.is_main_process')}",
            f"{BOTH}def main(accelerator):\n{text.replace('{gate}', OPEN)}",
        )
        for id, text in [
            (
                "the others have the name, too",
                "    if accelerator.is_main_process:\n        out = new()\n    else:\n        out = None\n"
                "    out = broadcast(out)\n    if {gate}:\n        accelerator.save_state(out)\n",
            ),
            (
                "the name is given anew there",
                "    if accelerator.is_main_process:\n        out = 1\n    if {gate}:\n        out = 2\n"
                "        accelerator.save_state(out)\n",
            ),
            (
                "the main process alone has the name once all is trained",
                "    for step in loader:\n        if {gate}:\n            accelerator.save_state(out.format(step))\n"
                "    if accelerator.is_main_process:\n        out = 1\n",
            ),
            (
                "what may fail is in a try",
                "    try:\n        if {gate}:\n            accelerator.save_state(1)\n    except OSError: raise\n",
            ),
            (
                "the folder is taken when all are there",
                "    if {gate}:\n        accelerator.save_state(out)\n    accelerator.wait_for_everyone()\n"
                "    if accelerator.is_main_process:\n        os.rename(out, 'last')\n",
            ),
        ]
    ),
    imports(
        "imported for the types alone",
        f"{FROM}if TYPE_CHECKING:\n    from accelerate import DistributedType\n",
        f"{BOTH}if TYPE_CHECKING:\n    from accelerate import DistributedType\n",
    ),
    case(
        "a hook makes a folder, and writes in a function of the script",
        BOTH
        + "def export(model):\n    open(1, 'w')\n"
        + HOOKED.format(gate="accelerator.is_main_process", line="os.makedirs(1)\n            export(model)"),
        BOTH
        + "def export(model):\n    open(1, 'w')\n"
        + HOOKED.format(
            gate=OPEN,
            line="if accelerator.is_main_process:\n                os.makedirs(1)\n                export(model)",
        ),
    ),
    case(
        "a hook writes a file",
        BOTH
        + HOOKED.format(gate="accelerator.is_main_process", line="with open(1, 'w') as f:\n                f.write(1)"),
        BOTH
        + HOOKED.format(
            gate=OPEN,
            line="if accelerator.is_main_process:\n                with open(1, 'w') as f:\n"
            "                    f.write(1)",
        ),
    ),
    case(
        "a hook hands its folder to what is not in the script",
        BOTH + HOOKED.format(gate="accelerator.is_main_process", line="export(model, output_dir)"),
        BOTH
        + HOOKED.format(gate=OPEN, line="if accelerator.is_main_process:\n                export(model, output_dir)"),
    ),
    *(
        case(
            f"a hook reads: {opened}",
            BOTH + HOOKED.format(gate="accelerator.is_main_process", line=f"with {opened} as f: pass"),
            BOTH + HOOKED.format(gate=OPEN, line=f"with {opened} as f: pass"),
        )
        for opened in ("open(1)", "open(1, mode='rb')", "path.open()", "path.open('r')", "path.open(encoding='utf-8')")
    ),
    case(
        "a hook that is imported",
        f"{BOTH}from hooks import save\ndef main(accelerator):\n    accelerator.register_save_state_pre_hook(save)\n"
        "    if accelerator.is_main_process:\n        accelerator.save_state(1)\n",
        f"{BOTH}from hooks import save\ndef main(accelerator):\n    accelerator.register_save_state_pre_hook(save)\n"
        f"    if {OPEN}:\n        accelerator.save_state(1)\n",
    ),
]

REFUSED = [
    *(
        refused(f"ranks part: {id}", reason, 3, f"    if accelerator.is_main_process{body}")
        for id, reason, body in [
            ("a loss of its own", UNLIKE, " and loss.item() < best:\n        accelerator.save_state(1)\n"),
            ("a file", UNLIKE, ":\n        if not os.path.exists(p):\n            accelerator.save_state(1)\n"),
            ("the clock", UNLIKE, ":\n        accelerator.save_state(f'{time.time()}')\n"),
            (
                "by a name in the block",
                UNLIKE,
                ":\n        p = os.path.join(out, datetime.now().strftime('%H'))\n        accelerator.save_state(p)\n",
            ),
            ("a listing", UNLIKE, ":\n        for f in os.listdir(1):\n            accelerator.save_state(f)\n"),
            (
                "a function",
                UNLIKE,
                ":\n        if log_validation(model) > best:\n            accelerator.save_state(1)\n",
            ),
            (
                "a name above",
                UNLIKE,
                " and late > 60:\n        accelerator.save_state(1)\n    late = time.time() - start\n",
            ),
            (
                "in a helper",
                UNLIKE,
                ":\n        save(accelerator)\n\n\ndef save(accelerator):\n    accelerator.save_state(f'{time()}')\n",
            ),
        ]
    ),
    refused(
        "ranks part: a test around",
        UNLIKE,
        4,
        "    if loss.item() < best:\n        if accelerator.is_main_process:\n            accelerator.save_state(1)\n",
    ),
    *(
        refused(f"{id} on the line", "several statements share line", 3, f"    if accelerator.is_main_process:{body}")
        for id, body in [
            ("work behind the save", "\n        accelerator.save_state(1); upload()\n"),
            ("work before the save", "\n        upload(); accelerator.save_state(1)\n"),
            ("work and the gate", " accelerator.save_state(1); upload()\n"),
        ]
    ),
    *(
        refused(id, reason, 3, f"    if accelerator.is_main_process:\n{body}")
        for id, reason, body in [
            (
                "a model is gathered",
                "`accelerator.get_state_dict(…)` is for every process to call",
                "        accelerator.save_state(1)\n        torch.save(accelerator.get_state_dict(model), 1)\n",
            ),
            (
                "an engine saves",
                "`model.save_checkpoint(…)` is for every process to call",
                "        accelerator.save_state(1)\n        model.save_checkpoint(1)\n",
            ),
            (
                "a method sets what the save reads",
                "`self.new(…)` may set `self.folder`",
                "        self.new()\n        accelerator.save_state(self.folder)\n",
            ),
            (
                "an attribute is given what one process works out",
                "gives `self.best`",
                "        self.best = evaluate()\n        accelerator.save_state(self.best)\n",
            ),
            (
                "other weights for the save",
                "`ema.copy_to(…)` gives the model other weights",
                "        ema.copy_to(model)\n        accelerator.save_state(1)\n        ema.restore(model)\n",
            ),
        ]
    ),
    conflict(
        "DistributedType is something else",
        "`DistributedType` is something else there",
        3,
        f"{BOTH}def main(accelerator, DistributedType=None):\n    if accelerator.is_main_process:\n"
        "        accelerator.save_state(1)\n",
    ),
    *(
        conflict(f"a hook {id}", reason, 9 + added, BOTH + HOOKED.format(gate="accelerator.is_main_process", line=line))
        for id, reason, line, added in [
            *(
                (
                    f"opens a file: {opened}",
                    f"writes on every process that saves (`{called}(…)`)",
                    f"with {opened} as f: n = 1",
                    1,
                )
                for called, opened in (
                    ("open", "open(1, 'w')"),
                    ("path.open", "path.open('w')"),
                    ("path.open", "path.open(mode='a')"),
                    ("open", "open(1, mode)"),
                    ("open", "open(1, 'r+')"),
                    ("open", "open(1, **given)"),
                )
            ),
            (
                "gathers a model",
                "calls `accelerator.get_state_dict(…)`, which every process must",
                "save_file(accelerator.get_state_dict(model), 1)",
                1,
            ),
            ("writes on a shared line", "writes on every process", "write_text(1); save_file(1)", 1),
        ]
    ),
    refused(
        "a hook that is no function",
        "the hook `Saver()` is no function of this script",
        4,
        "    accelerator.register_save_state_pre_hook(Saver())\n    if accelerator.is_main_process:\n"
        "        accelerator.save_state(1)\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
