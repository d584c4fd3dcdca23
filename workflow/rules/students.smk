# Spiking networks that are trained, and the ANNs whose weights are converted.
use rule teacher as student with:
    wildcard_constraints:
        run=rf"[a-z0-9-]+-(spiking|sew|qcfs)-[a-z0-9-]+-(?!convert)[a-z]+{RUN_ENDING}",
    priority: 0


# Runs that only evaluate the weights that they begin with: conversions and published teachers.
use rule teacher as evaluation with:
    wildcard_constraints:
        run=rf"[a-z0-9-]+-(convert|pretrained){RUN_ENDING}",
    priority: 5
