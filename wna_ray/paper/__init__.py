"""The whole paper again: every experiment of Borji & Lin (2020) on real data, side by side with
what they published.

    plan          what is trained and run, in which order, at which size
    make          does it, or goes on with it, and writes the report
    sources       networks and runs of the paper's directory, opened for reading
    digits, objects, imagenet, psychophysics, attacks, backdoors, neurons, families
                  the experiments: numbers, figures and verdicts from finished runs
    charts        their figures

Experiments only read finished runs and networks; whoever has a run directory can make them again.
May import: every room but the command line.
"""
