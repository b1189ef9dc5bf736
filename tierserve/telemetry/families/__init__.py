"""The node's metrics, a module for each subject, whose families stand at zero from the start and read Outcomes."""
