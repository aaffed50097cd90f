"""Super-convergence of LeNet on MNIST, after L. N. Smith and N. Topin: `study.yaml` names what is rerun."""
