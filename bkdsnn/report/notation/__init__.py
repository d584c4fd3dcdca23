"""Table 1: the paper's notation beside the code's own names, its shapes checked on a batch of a real run.

config/notation.yaml --plan--> NotationPlan with a run --trace--> Quantity by key --check--> NotationTable
"""
