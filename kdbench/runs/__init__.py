"""From a configuration to a finished run: plan, prepare, execute, record."""
