"""On the robot: what keeps a policy's actions safe, in time, and the same in simulation.

Nothing that the control process imports from here loads torch.
"""
