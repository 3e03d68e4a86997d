"""The ``vm`` command: reads the configuration, chooses the parts, prints. No logic about guests lives here.

Nothing is imported from here on purpose: ``vm run`` must not pay for what it does not use.
"""
