"""Trade files to candles: the exchanges' bulk layouts, readers of them, and what builds the candles"""
