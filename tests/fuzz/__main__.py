"""Random layers against the reference: ``python -m tests.fuzz [--minutes N] [--layers N] [--seed S]``.

A layer is a module, its options and a call, all drawn from one number, its seed. Outputs, final states and gradients
are held to the accuracy rule, with the reference in float64 as the truth and the reference in the same dtype as the
peer. What fails is told in a line that repeats it, then made smaller for as long as it still fails.
"""

import sys

from .command import main

sys.exit(main())
