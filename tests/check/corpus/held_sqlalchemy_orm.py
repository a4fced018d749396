import datetime

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool


class Base(DeclarativeBase):
    pass


class Price(Base):
    __tablename__ = "price"
    name: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]
    since: Mapped[datetime.date] = mapped_column(default=datetime.date.today)


engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([Price(name="tea", cents=250), Price(name="cake", cents=420)])
    session.commit()


def lambda_handler(event, context):
    with Session(engine) as session:
        return sum(session.scalars(select(Price.cents)))
