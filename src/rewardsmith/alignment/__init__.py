"""Using a reward: pieces of policy gradients, a compact PPO, and alignment with general preferences.

`policy_gradient` (paper 64) and `general_preference` (paper 26) hold pure functions on tensors, `ppo` a small trainer.
"""
