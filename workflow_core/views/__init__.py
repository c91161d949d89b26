"""What people and programs see of a store: executions, workflows and logs, read without writing or waiting."""
