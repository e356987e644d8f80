"""What a run says about itself when it is over, or when somebody asks."""
