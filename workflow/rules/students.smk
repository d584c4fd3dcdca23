# Training of spiking networks, and of the ANNs that are converted to spiking networks.
use rule teacher as student with:
    wildcard_constraints:
        run=run_names("student"),
    priority: 0


# Runs that evaluate given weights without training: conversions and published teachers.
use rule teacher as evaluation with:
    wildcard_constraints:
        run=run_names("evaluation"),
    priority: 5
