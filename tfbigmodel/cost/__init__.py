"""What a run costs, before it is paid: operations, memory and time, from the training graph and two real updates."""
