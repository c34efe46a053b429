"""Small simulated worlds with a known gold reward: what claims, tests and the quickstart stand on."""
