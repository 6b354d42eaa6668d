"""sharded-state: collect the optimizer's shards before the state is saved."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "sharded-state"

APPLIED = [
    case(
        "as in the script",
        """
        from library.pretrain import collect_state


        def train(args):
            optimizer = make()
            if due:
                wait()
                if accelerator.is_main_process:
                    src_path = path
                    save(src_path)
            if args.save_state:  # all of them
                train_util.save_state_on_train_end(args, accelerator)
        """,
        """
        from library.pretrain import collect_state


        def train(args):
            optimizer = make()
            if due:
                wait()
                collect_state(args, optimizer)
                if accelerator.is_main_process:
                    src_path = path
                    save(src_path)
            if args.save_state:  # all of them
                collect_state(args, optimizer)
                train_util.save_state_on_train_end(args, accelerator)
        """,
        count=2,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        from library.pretrain import collect_state


        def train(args):
            optimizer = make()
            if due:
                wait()
                collect_state(args, optimizer)
                if accelerator.is_main_process:
                    src_path = path
                    save(src_path)
            if args.save_state:  # all of them
                collect_state(args, optimizer)
                train_util.save_state_on_train_end(args, accelerator)
        """,
    ),
    gone(
        "another use of the main process",
        """
        def train(args):
            if accelerator.is_main_process:
                log()
        """,
    ),
    conflict(
        "no collect_state",
        "`collect_state` is not bound",
        3,
        """
        def train(args):
            optimizer = make()
            train_util.save_state_on_train_end(args, accelerator)
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
