"""How a block learns: one file per method, each the paper's equations in closed form."""
