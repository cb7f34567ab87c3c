"""Did an NCA model infer its rules? Its predictions against ideal predictors."""
