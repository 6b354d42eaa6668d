"""What every launch script starts: it checks settings, model and data, sets the environment, trains, and reports.

Standard library only, Python 3.8 to 3.13. A launch script is settings and one line; what its settings are is said by
programs.json in this folder, read by options.py. Modules, in the order a launch goes through them:

    options      the command line and the settings: kinds, defaults, what is nearly right
    scheduler    what Slurm, Kubernetes and ModelArts say of machines
    machines     machines, processes and ports; the accelerate config
    model, data, checkpoints    what is there, and whole, before anything is loaded
    simpletuner  the same for SimpleTuner, whose settings are files; simpletuner_checks: what those may be, and
                 simpletuner_data: its data sets
    environment  the device's toolkit and variables
    command      what is started: accelerate launch, torchrun or python
    session      one training from its start to its report
    training     starting it, following its output, ending it
    report       what the output says: images a second, loss; picture draws it
    output       what the launcher itself shows, whoever reads it
    watch        what the training's processes import, too: it times batches, and saves when that is asked for

To add a check, write a function that raises Mistake (or an entry of a table: options.py); call it in `checks.checked`.
"""
