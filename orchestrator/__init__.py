"""What decides: configuration, plan, and the stages of a run, each driven by one file.

prompts -> capture -> students -> evaluation -> export -> report
"""
