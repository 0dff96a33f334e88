"""What each choice costs, before and after it is made. Pure: times, draws and price lists are arguments."""
