"""Write down what ``transformers`` knows of sharding, as a data file that needs no transformers."""
