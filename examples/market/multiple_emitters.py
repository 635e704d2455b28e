"""Multiple emitters: log, CSV, PostgreSQL and Kafka at once."""

import asyncio

from sqlalchemy import BigInteger, Float, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import streammachine as sf


class Base(DeclarativeBase):
    pass


class MyTable(Base):
    __tablename__ = "klines"

    source: Mapped[str] = mapped_column(String, primary_key=True)
    symbol: Mapped[str] = mapped_column(String, primary_key=True)
    timeframe: Mapped[str] = mapped_column(String, primary_key=True)
    open_ts: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    open: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    close: Mapped[float] = mapped_column(Float)
    volume: Mapped[float] = mapped_column(Float)


async def main():
    runner = sf.BinanceRunner(stream_input=sf.DataInput(type="kline", symbols=["BTCUSDT"], timeframe="1m"))
    logger = sf.Logger(prefix="Binance")
    csv = sf.CSVEmitter(source="Binance", symbol="BTCUSDT", timeframe="1m", file_path="data.csv")
    postgres = sf.PostgresEmitter(
        host="localhost",
        dbname="crypto",
        user="postgres",
        password="secret",
        from_model_create_table=True,
    )
    postgres.set_model(MyTable)

    kafka = sf.KafkaEmitter(bootstrap_servers="localhost:9092", topic="crypto-stream")

    # Register them all: data goes to each of them
    runner.register_emitter(logger)
    runner.register_emitter(csv)
    runner.register_emitter(postgres)
    runner.register_emitter(kafka)

    await runner.run()


asyncio.run(main())
