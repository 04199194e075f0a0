"""Where a layer can run fused. A backend names the reasons against a layer; none means that it takes it."""
