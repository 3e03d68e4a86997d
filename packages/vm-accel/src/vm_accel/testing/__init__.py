"""What tests, and users who extend the tests, need: the layout oracle, simulators of platforms, recorded exits."""
