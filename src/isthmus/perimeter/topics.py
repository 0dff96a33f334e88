"""Words that say what the number beside them is, in English, German, French, Spanish, Italian and Dutch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind

from isthmus.perimeter.lowercase import lowered

WORDS: Mapping[str, str] = {
    "phone": """
        phone, phones, phone number, telephone, tel, mobile, cell, cellphone, cell phone, fax, dial,
        whatsapp, contact number, hotline, pager, landline, ext, telefon, telefonnummer, telefonnr,
        rufnummer, handy, handynummer, mobil, mobilnummer, mobiltelefon, festnetz, telefax, durchwahl,
        téléphone, portable, numéro de téléphone, teléfono, telefono, móvil, celular, cellulare, numero di
        telefono, telefoon, telefoonnummer, mobiel, mobiele nummer, telefone, telemóvel
    """,
    "talk": """
        call, callback, calling, called, sms, telegram, signal, office, desk, answering, answer, reach me,
        reach him, reach her, reach us, reach you, text me, texted, message, messages, voicemail, ring,
        contact, contact me, anrufen, rückruf, erreichbar, ruf, appeler, appelez, joindre, joignable,
        llamar, llame, llamada, fijo, chiamare, chiama, chiamami, recapito, bellen, gebeld, bereikbaar,
        ligar
    """,
    "card": """
        card, cards, credit card, debit card, card number, credit card number, debit card number, cc, visa,
        mastercard, amex, kreditkarte, kreditkartennummer, kartennummer, carte, carte bancaire, carte de
        crédit, numéro de carte, tarjeta, tarjeta de crédito, número de tarjeta, carta di credito, numero di
        carta, carta, creditcard, creditcardnummer, kaartnummer
    """,
    "ssn": """
        ssn, ssns, social security, social security number, social security no, itin, taxpayer id, social
        sec, soc sec, ss number
    """,
    "national_id": """
        national id, national id number, national identity, national identification number, id card,
        identity card, id number, identity number, identification number, personal id, tax id, tax number,
        tax identification number, tin, tax file number, tfn, social insurance number, sin, national
        insurance, national insurance number, ni number, nino, nhs, nhs number, medicare, medicare number,
        aadhaar, aadhar, pan, pan card, cpf, cnpj, pesel, ppsn, pps number, personnummer, cpr, hetu,
        fødselsnummer, steuer-id, steuerid, steuernummer, steueridentifikationsnummer, steuerliche
        identifikationsnummer, identifikationsnummer, idnr, personalausweis, personalausweisnummer,
        ausweisnummer, ausweis, sozialversicherungsnummer, rentenversicherungsnummer, ahv, ahv-nummer, svnr,
        numéro de sécurité sociale, sécurité sociale, numéro fiscal, carte d'identité, numéro d'identité,
        nir, numéro de carte d'identité, carte nationale d'identité, numéro d'identification fiscale, dni,
        nie, nif, documento de identidad, número de identificación, seguridad social, número de la seguridad
        social, cédula, curp, rfc, número de identidad, codice fiscale, carta d'identità, tessera sanitaria,
        partita iva, numero di identificazione, bsn, burgerservicenummer, sofinummer, identiteitskaart,
        identiteitsbewijs, rijksregisternummer, contribuinte, bilhete de identidade, cartão de cidadão,
        idcard, id document, id card number
    """,
    "passport": """
        passport, passport number, passport no, passport num, reisepass, reisepassnummer, passnummer,
        pass-nr, passeport, numéro de passeport, pasaporte, número de pasaporte, passaporto, numero di
        passaporto, paspoort, paspoortnummer, passaporte
    """,
    "licence": """
        driver's license, drivers license, driver license, driving license, driver's licence, drivers
        licence, driver licence, driving licence, driver’s license, driver’s licence, license number,
        licence number, dl number, dln, driver's license number, driving permit, führerschein,
        führerscheinnummer, permis de conduire, numéro de permis, permiso de conducir, licencia de conducir,
        carnet de conducir, patente di guida, numero di patente, patente, rijbewijs, rijbewijsnummer
    """,
    "bank_account": """
        account, account number, account no, account num, account nr, acct, acct no, a/c, bank account,
        checking account, savings account, routing number, routing no, aba, aba number, sort code, bsb,
        ifsc, clabe, konto, kontonummer, konto-nr, bankverbindung, blz, bankleitzahl, numéro de compte,
        compte bancaire, rib, cuenta, número de cuenta, cuenta bancaria, numero di conto, conto corrente,
        rekeningnummer, bankrekening, rekening, conta bancária
    """,
    "swift": """
        swift, swift code, bic, bic code, swift/bic, swift-code, bic-code, code swift, código swift, codice
        bic
    """,
    "medical_record": """
        medical record, medical record number, medical record no, mrn, patient id, patient number, patient
        no, health record, health insurance number, health plan number, insurance id, insurance number,
        member id, beneficiary number, health card, patientennummer, patienten-id,
        krankenversicherungsnummer, versichertennummer, krankenkassennummer, fallnummer, numéro de patient,
        numéro de dossier, dossier médical, numéro d'assuré, historia clínica, número de historia clínica,
        número de paciente, cartella clinica, numero di cartella, patiëntnummer, patientnummer,
        zorgverzekering, polisnummer
    """,
    "birth_date": """
        date of birth, birth date, birthdate, birthday, born, born on, dob, d.o.b, birth, geburtsdatum,
        geboren, geboren am, geb, geburtstag, date de naissance, né le, née le, naissance, fecha de
        nacimiento, nacido, nacida, nacimiento, data di nascita, nato il, nata il, nato, nata,
        geboortedatum, geboren op, data de nascimento, nascido, nascida
    """,
    "vehicle": """
        license plate, licence plate, number plate, plate number, plates, plate, registration number,
        vehicle registration, registration plate, vin, chassis number, chassis, vehicle identification
        number, kennzeichen, nummernschild, fahrgestellnummer, fin, immatriculation, plaque, plaque
        d'immatriculation, numéro d'immatriculation, matrícula, placa, bastidor, targa, telaio, kenteken,
        kentekenplaat
    """,
    "device": """
        imei, imei number, device id, serial number, seriennummer, numéro de série, número de serie, numero
        di serie, serienummer
    """,
}
"""What a topic is called. Words are compared in lower case, and only whole."""

# These say it of a number that stands before them, too: "555 0100 (fax)".
_BEHIND = frozenset({"phone", "mobile", "cell", "fax", "office", "desk", "landline", "mobil", "portable"})

AHEAD = 64
"""A word speaks of what begins at most so many code points behind its end."""

BEHIND = 12
"""And some words of what ends at most so many before their start."""


class Topics:
    """Where the words of each topic stand in one text."""

    def __init__(self, text: str) -> None:
        self._labels: dict[str, list[int]] = {}
        self._tags: dict[str, list[int]] = {}
        low = lowered(text)
        for which, start, end in _AUTOMATON.find_matches_as_indexes(low):
            if _is_whole(low, start, end):
                word, topics = _ENTRIES[which]
                for topic in topics:
                    self._labels.setdefault(topic, []).append(end)
                    if word in _BEHIND:
                        self._tags.setdefault(topic, []).append(start)

    def ends(self, topic: str) -> list[int]:
        """Where the words of that topic end, in order."""
        return self._labels.get(topic, [])

    def is_near(self, topic: str, start: int, end: int) -> bool:
        """True where a word of that topic may speak of `start:end`."""
        labels, tags = self._labels.get(topic, ()), self._tags.get(topic, ())
        before, after = bisect_left(labels, start + 1), bisect_left(tags, end)
        if before and start - labels[before - 1] <= AHEAD:
            return True
        return after < len(tags) and tags[after] - end <= BEHIND


class _Entry(NamedTuple):
    word: str
    topics: tuple[str, ...]


def _entries() -> list[_Entry]:
    topics: dict[str, list[str]] = {}
    for topic, words in WORDS.items():
        for word in words.split(","):
            topics.setdefault(" ".join(word.split()), []).append(topic)
    return [_Entry(word, tuple(dict.fromkeys(named))) for word, named in topics.items()]


def _is_whole(text: str, start: int, end: int) -> bool:
    return not (text[start - 1 : start].isalnum() or text[end : end + 1].isalpha())


_ENTRIES = _entries()
# The longest word at a place wins: "card number" is not read as "card" with a number to follow.
_AUTOMATON = AhoCorasick([entry.word for entry in _ENTRIES], matchkind=MatchKind.LeftmostLongest)
