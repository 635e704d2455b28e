"""Historical mode: a year of candles into a CSV file."""

import streammachine as sf


def main():
    backfiller = sf.BinanceBackfilling(
        symbol="BTCUSDT",
        timeframe="1m",
        from_date="2024-01-01",
        to_date="2024-12-31",
    )

    backfiller.register_emitter(sf.CSVEmitter(file_path="btc_2024.csv"))
    backfiller.run()  # Sync, not async!


main()
