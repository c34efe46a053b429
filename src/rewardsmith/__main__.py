"""`python -m rewardsmith`, which `accelerate launch -m rewardsmith` needs."""

from rewardsmith.cli import main

if __name__ == "__main__":
    main()
