"""One module for each real component: it puts the component into the simulation.

What another release changes in a component is changed here once.
"""
