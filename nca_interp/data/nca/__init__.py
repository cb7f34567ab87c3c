"""Neural cellular automata: rules, rows, filters, ideal predictors."""
