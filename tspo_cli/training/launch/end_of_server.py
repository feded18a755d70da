"""The fork server of a sweep imports this file, and so ends when the sweep has ended, however it
ends. A training that was stopped (SIGSTOP) notices that, and goes on to end.
"""

from __future__ import annotations

import signal

from tspo_cli.training.launch.child_processes import set_parent_death_signal

set_parent_death_signal(signal.SIGKILL)
