# Spiking networks that are trained, and the ANNs whose weights are converted.
use rule teacher as student with:
    wildcard_constraints:
        run=run_names("student"),
    priority: 0


# Runs that only evaluate the weights that they begin with: conversions and published teachers.
use rule teacher as evaluation with:
    wildcard_constraints:
        run=run_names("evaluation"),
    priority: 5
