"""offline-model-card: write the model card only under --push_to_hub."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables, unlike

NAME = "offline-model-card"
HUB = "def save_model_card(repo_id): load_or_create_model_card(repo_id)\n"
CARD = "def save_model_card(repo_id): load_or_create_model_card(repo_id)\nparser.add_argument('--push_to_hub')\n"

APPLIED = [
    *(
        unlike(
            f"asked {how}",
            f"{HUB}{above}    save_model_card(1)\n    if {push}:\n        upload()\n",
            f"{HUB}{above}    if {push}:\n        save_model_card(1)\n        upload()\n",
        )
        for how, above, push in (
            ("by a name", "def main(push_to_hub=False):\n", "push_to_hub"),
            ("of a dictionary", "def main(config):\n", 'config["push_to_hub"]'),
            ("of a group of options", "def main(cfg):\n", "cfg.hub.push_to_hub"),
        )
    ),
    *(
        unlike(
            f"asked elsewhere of {push}",
            f"{HUB}class A:\n    def a(self, cfg):\n        return {push}.push_to_hub\n    def b(self, cfg):\n"
            "        save_model_card(1)\n",
            f"{HUB}class A:\n    def a(self, cfg):\n        return {push}.push_to_hub\n    def b(self, cfg):\n"
            f"        if {push}.push_to_hub:\n            save_model_card(1)\n",
        )
        for push in ("self.args", "cfg")
    ),
    unlike(
        "asked there, and elsewhere of something else",
        f"{HUB}opts = parse()\nif opts.push_to_hub:\n    login()\ndef main(cfg):\n    print(cfg.push_to_hub)\n"
        "    save_model_card(1)\n",
        f"{HUB}opts = parse()\nif opts.push_to_hub:\n    login()\ndef main(cfg):\n    print(cfg.push_to_hub)\n"
        "\n    if cfg.push_to_hub:\n        save_model_card(1)\n",
    ),
    case(
        "moved into the block that follows",
        """
        def main(args):
            prompt = args.prompt
            save_model_card(
                repo_id,
                prompt=prompt,  # the prompt
            )

            if args.push_to_hub:
                upload_folder(repo_id)

            accelerator.end_training()

        from card import save_model_card
        """,
        """
        def main(args):
            prompt = args.prompt

            if args.push_to_hub:
                save_model_card(
                    repo_id,
                    prompt=prompt,  # the prompt
                )
                upload_folder(repo_id)

            accelerator.end_training()

        from card import save_model_card
        """,
    ),
    case(
        "every comment stays, each with its statement",
        CARD
        + """
def main(args):
    train()

    # the card
    save_model_card(1)  # for the hub

    # and the rest
    if args.push_to_hub:  # if asked for
        # now
        upload()
""",
        CARD
        + """
def main(args):
    train()

    # and the rest
    if args.push_to_hub:  # if asked for
        # the card
        save_model_card(1)  # for the hub
        # now
        upload()
""",
    ),
    case(
        "another statement follows",
        CARD + "def main(args):\n    train()\n    # the card\n    save_model_card(1)\n    end()\n",
        CARD + "def main(args):\n    train()\n\n    if args.push_to_hub:\n        # the card\n"
        "        save_model_card(1)\n    end()\n",
    ),
    case(
        "alone in a block under another if, and the block that pushes comes first",
        CARD
        + """
def main(args, accelerator):
    if args.push_to_hub:
        upload()
    if accelerator.is_main_process:
        save_model_card(1)
    else:
        wait()
""",
        CARD
        + """
def main(args, accelerator):
    if args.push_to_hub:
        upload()
    if accelerator.is_main_process:
        if args.push_to_hub:
            save_model_card(1)
    else:
        wait()
""",
    ),
    case(
        "the block that follows is on one line: it stays one",
        CARD + "def main(args):\n    save_model_card(1)\n    if args.push_to_hub: upload()\n",
        CARD
        + "def main(args):\n    if args.push_to_hub:\n        save_model_card(1)\n    if args.push_to_hub: upload()\n",
    ),
    case(
        "the block that follows has an else",
        CARD + "def main(args):\n    save_model_card(1)\n    if args.push_to_hub:\n        upload()\n    else:\n"
        "        keep()\n",
        CARD + "def main(args):\n    if args.push_to_hub:\n        save_model_card(1)\n        upload()\n    else:\n"
        "        keep()\n",
    ),
    case(
        "the block that follows asks for more",
        CARD + "def main(args):\n    save_model_card(1)\n    if args.push_to_hub and args.big:\n        upload()\n",
        CARD + "def main(args):\n    if args.push_to_hub:\n        save_model_card(1)\n"
        "    if args.push_to_hub and args.big:\n        upload()\n",
    ),
    case(
        "a text over several lines is not indented",
        CARD + 'async def main(args):\n    with a:\n        save_model_card("""\n  text\n""")\n',
        CARD + 'async def main(args):\n    with a:\n        if args.push_to_hub:\n            save_model_card("""\n'
        '  text\n""")\n',
    ),
    case(
        "the card is written again, and not read",
        CARD + "def main(args):\n    save_model_card(1)\n    n = Path('README.md').open('w'), open('README.md', 'a')\n",
        CARD + "def main(args):\n    if args.push_to_hub:\n        save_model_card(1)\n"
        "    n = Path('README.md').open('w'), open('README.md', 'a')\n",
    ),
    case(
        "below two lines, above another question",
        f"{CARD}def main(args):\n    a = 1\n    b = 1\n    save_model_card(1)\n    if a:\n        b = 2\n",
        f"{CARD}def main(args):\n    a = 1\n    b = 1\n\n    if args.push_to_hub:\n        save_model_card(1)\n"
        "    if a:\n        b = 2\n",
    ),
    case(
        "below two lines, above its question",
        f"{CARD}def main(args):\n    a = 1\n    b = 1\n    save_model_card(1)\n"
        "    if args.push_to_hub:\n        b = 2\n",
        f"{CARD}def main(args):\n    a = 1\n    b = 1\n"
        "    if args.push_to_hub:\n        save_model_card(1)\n        b = 2\n",
    ),
    case(
        "asked above, too",
        f"{CARD}def main(args):\n    if args.push_to_hub:\n        login()\n    save_model_card(1)\n"
        "    if args.push_to_hub:\n        upload()\n",
        f"{CARD}def main(args):\n    if args.push_to_hub:\n        login()\n"
        "    if args.push_to_hub:\n        save_model_card(1)\n        upload()\n",
    ),
    case(
        "asked of two names",
        f"{CARD}def main(cfg, args):\n    save_model_card(1)\n    b = cfg.push_to_hub\n    c = args.push_to_hub\n",
        f"{CARD}def main(cfg, args):\n    if cfg.push_to_hub:\n        save_model_card(1)\n    b = cfg.push_to_hub\n"
        "    c = args.push_to_hub\n",
    ),
    case(
        "asked of another name, other files opened",
        f"{CARD}def main(cfg):\n    a.save_model_card(1)\n    save_model_card(1)\n    b = cfg.push_to_hub\n"
        "def other(opts):\n    b = opts.push_to_hub\n    open('README.md', 'w')\n    open('wow')\n",
        f"{CARD}def main(cfg):\n    a.save_model_card(1)\n\n    if cfg.push_to_hub:\n        save_model_card(1)\n"
        "    b = cfg.push_to_hub\n"
        "def other(opts):\n    b = opts.push_to_hub\n    open('README.md', 'w')\n    open('wow')\n",
    ),
]

REFUSED = [
    gone(
        "a card of its own",
        "def save_model_card(a): ModelCard.from_template(a).save(a)\ndef main(args):\n    save_model_card(1)\n",
    ),
    gone(
        "made here",
        "def save_model_card(a): open(a, 'w').write(make_model_card(a))\ndef main(args):\n    save_model_card(1)\n",
    ),
    *(
        gone(f"read back: {opened}", CARD + f"def main(args):\n    save_model_card(1)\n    n = {opened}\n")
        for opened in ("Path('README.md').open()", "open('README.md', 'r+')", "open('README.md', mode)")
    ),
    *(
        conflict(f"wanted without a push: {id}", "asks for it without a push", line, f"{CARD}def main(args):\n{code}")
        for id, line, code in (
            (
                "for another hub",
                4,
                "    save_model_card(1)\n    if args.push_to_hub or args.push_to_other:\n        push(1)\n",
            ),
            ("asked for so", 5, "    if not args.push_to_hub:\n        save_model_card(1)\n"),
        )
    ),
    satisfied(
        "in the other branch",
        f"{CARD}def main(args):\n    if not args.push_to_hub:\n        pass\n    else:\n        save_model_card(1)\n",
    ),
    gone("read back", CARD + "def main(args):\n    save_model_card(1)\n    print(open('README.md').read())\n"),
    gone("copied", CARD + "def main(args):\n    save_model_card(1)\n    shutil.copy('README.md', 'a')\n"),
    conflict(
        "it writes more than the card",
        "it also writes another file (`json.dump(…)`)",
        4,
        CARD.replace("(repo_id)\n", "(repo_id); json.dump(a, b)\n") + "def main(args):\n    save_model_card(1)\n",
    ),
    *(
        conflict(
            f"its arguments do something: {given}",
            f"`{given}` is worked out in its arguments",
            4,
            CARD + f"def main(args):\n    save_model_card(str(1), images={given})\n",
        )
        for given in ("log_validation(pipeline)", "(images := make)")
    ),
    *(
        satisfied(
            f"there, asked of {how}",
            f"{HUB}def main(config, push_to_hub):\n    if {test}:\n        save_model_card(1)\n",
        )
        for how, test in (
            ("a name", "push_to_hub"),
            ("a dictionary", "config['push_to_hub'] and done"),
            ("a dictionary, with a default", "config.get('push_to_hub', False)"),
        )
    ),
    conflict(
        "asked of another object's own",
        "whether the result is pushed",
        7,
        f"{HUB}class A:\n    def a(self):\n        return self.args.push_to_hub\nclass B:\n    def b(self):\n"
        "        save_model_card(1)\n        self.model.push_to_hub(1)\n",
    ),
    satisfied(
        "left above", f"{CARD}def main(args):\n    if not args.push_to_hub: raise SystemExit\n    save_model_card(1)\n"
    ),
    satisfied("a choice", f"{CARD}def main(args):\n    save_model_card(1) if args.push_to_hub else None\n"),
    satisfied("there", CARD + "if args.push_to_hub:\n    save_model_card(1)\n"),
    satisfied(
        "there, with more asked", CARD + "if done and args.push_to_hub:\n    with a:\n        save_model_card(1)\n"
    ),
    gone("only defined", CARD),
    gone(
        "one that asks nobody",
        "def save_model_card(name):\n    write(name)\ndef main(args):\n    save_model_card(args.push_to_hub)\n",
    ),
    conflict(
        "no such option",
        "whether the result is pushed (there is no option `push_to_hub`): ask for that there",
        2,
        "def main(args):\n    save_model_card(args.name)\nfrom card import save_model_card\n",
    ),
    gone("a method of that name", "hub.save_model_card(1)\n"),
    conflict(
        "an `or` lets others in",
        "whether the result is pushed (`args` is not bound there): ask for that there",
        4,
        CARD + "if a or args.push_to_hub:\n    save_model_card(1)\n",
    ),
    conflict(
        "its result is used", "what it gives back is used", 4, CARD + "def main(args):\n    card = save_model_card(1)\n"
    ),
    conflict(
        "its result is handed on",
        "what it gives back is used",
        4,
        CARD + "def main(args):\n    upload(save_model_card(1))\n",
    ),
    conflict(
        "in an else on one line",
        "it stands on the line of what it is in",
        5,
        CARD + "def main(args):\n    if a: b()\n    else: save_model_card(1)\n",
    ),
    conflict(
        "twice",
        "expected 1 place to fix, found 2 (lines 4, 5)",
        4,
        CARD + "def main(args):\n    save_model_card(1)\n    save_model_card(2)\n",
    ),
    conflict(
        "no args",
        "whether the result is pushed (`args` is not bound there): ask for that there",
        4,
        CARD + "def main(options):\n    save_model_card(1)\n",
    ),
    conflict(
        "not bound",
        "`save_model_card` is not bound",
        3,
        "parser.add_argument('--push_to_hub')\ndef main(args):\n    save_model_card(1)\n",
    ),
    conflict(
        "the guard is outside the function",
        "whether the result is pushed (`args` is not bound there): ask for that there",
        5,
        CARD + "if args.push_to_hub:\n    def main():\n        save_model_card(1)\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
