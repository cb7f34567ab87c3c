"""`python -m nca_interp`, and `accelerate launch -m nca_interp train RECIPE` on several devices."""

from nca_interp.cli.app import main

if __name__ == "__main__":
    main()
