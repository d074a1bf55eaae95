"""``python -m lemon_sc.train RECIPE --corpus PATH --out FOLDER``."""

from lemon_sc.train.command import main

raise SystemExit(main())
