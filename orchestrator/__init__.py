"""What decides: configuration, plan, and the stages of a run.

Rooms, each of which imports only those below it (tests/repository/test_layout.py follows imports to their ends):

    cli                     the `stillhouse` command
    driver  launch          one attempt at a run: session, loop, pipeline  |  sending a run to a cluster
    stages                  preparation, capture, training, evaluation, export: what the driver drives
    render                  tables, Markdown, model cards: data as a person reads it
    reporting  stores       the report as data  |  looking at targets and models of a run
    monitors  preflight     who is told of events  |  checks and plan, before anything is loaded
    prompts                 sources, policy, duplicates, freezing
    runs                    run folder, identity, events, context of an attempt
    config                  the schema of the YAML, reading it, the students that it asks for

Only driver and stages import Ray. Storage keys are in workers/layout.py.
"""
