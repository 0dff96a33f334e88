"""Whether a number is one of its kind: check digits, lengths, issuers and dates, each from its public source.

Every function takes the number without its separators, letters in upper case, and is False, never an error,
for whatever else it is given.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence

_DIGITS = frozenset("0123456789")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_HETU_MARKS = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_PPSN_LETTERS = "WABCDEFGHIJKLMNOPQRSTUV"

_IBAN_REGISTRY = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28
    EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26
    IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28
    NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25
    SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""

IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_REGISTRY.split()}
"""How long an IBAN of each country is. Source: SWIFT, IBAN Registry (ISO 13616)."""


_BIC_COUNTRIES = {
    *IBAN_LENGTHS,
    *[
        "US",
        "CA",
        "MX",
        "AU",
        "NZ",
        "JP",
        "CN",
        "HK",
        "SG",
        "IN",
        "KR",
        "TW",
        "TH",
        "ID",
        "MY",
        "PH",
        "VN",
        "ZA",
        "NG",
        "KE",
        "MA",
        "AR",
        "CL",
        "CO",
        "PE",
    ],
}


def luhn(number: str) -> bool:
    """The last digit is right by the Luhn formula (ISO/IEC 7812-1, annex B)."""
    if not _all_digits(number):
        return False
    plain = sum(int(digit) for digit in number[-1::-2])
    return (plain + sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])) % 10 == 0


def card(number: str) -> bool:
    """A payment card's number: an issuer's range and length, and Luhn.

    Ranges as the networks publish them: Visa 4; Mastercard 51-55, 2221-2720; American Express 34, 37; Diners
    300-305, 3095, 36, 38-39; Discover 6011, 644-649, 65; JCB 3528-3589, and 1800, 2131 with 15 digits;
    UnionPay 62, 81; Maestro 50, 56-58, 6; RuPay 60, 65, 81, 82, 508; Mir 2200-2204; Troy 9792.
    """
    return len(number) in _card_lengths(number) and len(set(number)) > 1 and luhn(number)


def _card_lengths(number: str) -> Sequence[int]:
    if not _all_digits(number) or len(number) < 12:
        return ()
    two, three, four = int(number[:2]), int(number[:3]), int(number[:4])
    if number[0] == "4":
        return (13, 16, 19)
    if two in (34, 37) or four in (1800, 2131):
        return (15,)
    if 51 <= two <= 55 or 2221 <= four <= 2720 or four == 9792 or two in (81, 82):
        return (16,)
    if 2200 <= four <= 2204 or 3528 <= four <= 3589:
        return (16, 17, 18, 19)
    if 300 <= three <= 305 or two in (36, 38, 39) or four == 3095:
        return (14, 16, 19)
    return range(12, 20) if number[0] == "6" or two in (50, 56, 57, 58) else ()


def iban(number: str) -> bool:
    """An IBAN: its country's length, and remainder 1 by modulo 97 (ISO 13616, ISO 7064 MOD 97-10)."""
    if len(number) != IBAN_LENGTHS.get(number[:2]) or not (number.isascii() and number.isalnum()):
        return False
    return int("".join(str(int(mark, 36)) for mark in number[4:] + number[:4])) % 97 == 1


def bic(code: str) -> bool:
    """A business identifier code: four letters, a country, and three or six marks more (ISO 9362)."""
    return len(code) in (8, 11) and code[4:6] in _BIC_COUNTRIES


def ip(address: str) -> bool:
    """An address of IP version 4 or 6 that could be somebody's: not the unspecified one, nor a loopback."""
    if not any(mark in _DIGITS for mark in address):
        return False  # `dead::beef` is a name in a program more often than an address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_unspecified or parsed.is_loopback or parsed.packed[:1] == b"\xff")


def ssn(number: str) -> bool:
    """A US social security number: area not 000, 666 or 900 on, no part all zero (SSA, POMS RM 10201.035);
    or a taxpayer's number (ITIN), 9xx with a group of 50-65, 70-88, 90-92, 94-99 (IRS, Publication 1915)."""
    if not _all_digits(number) or len(number) != 9:
        return False
    area, group, serial = int(number[:3]), int(number[3:5]), int(number[5:])
    if area >= 900:
        return 50 <= group <= 99 and group not in (66, 67, 68, 69, 89, 93)
    return area not in (0, 666) and group != 0 and serial != 0


def nino(number: str) -> bool:
    """A UK National Insurance number: letters and prefixes that are given out (HMRC, NIM39110)."""
    prefix = number[:2]
    return (
        len(number) == 9
        and not set(prefix) & set("DFIQUV")
        and prefix[1] != "O"
        and prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
        and _all_digits(number[2:8])
        and number[8] in "ABCD"
    )


def nhs(number: str) -> bool:
    """A UK NHS number: modulo 11 with the weights 10 to 2 (NHS Data Dictionary, "NHS NUMBER")."""
    return _all_digits(number) and len(number) == 10 and _weighted(number, range(10, 0, -1)) % 11 == 0


def steuer_id(number: str) -> bool:
    """A German tax id: ISO 7064 MOD 11,10, and one digit twice or three times among the first ten
    (§ 139b AO; BZSt)."""
    if not _all_digits(number) or len(number) != 11 or number[0] == "0":
        return False
    repeated = [count for digit in set(number[:10]) if (count := number[:10].count(digit)) > 1]
    product = 10
    for digit in number[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return len(repeated) == 1 and repeated[0] <= 3 and (11 - product) % 10 == int(number[10])


def nir(number: str) -> bool:
    """A French social security number with its key: 97 less the rest modulo 97 (INSEE, "NIR"); Corsica's
    2A and 2B count as 19 and 18."""
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return len(number) == 15 and _all_digits(body + number[13:]) and 97 - int(body) % 97 == int(number[13:])


def dni(number: str) -> bool:
    """A Spanish DNI, or NIE with X, Y or Z for the first digit: the letter is the rest modulo 23
    (Ministerio del Interior, "Cálculo del dígito de control del NIF/NIE")."""
    body = str("XYZ".find(number[:1])) + number[1:8] if number[:1] in tuple("XYZ") else number[:8]
    return len(number) == 9 and _all_digits(body) and _DNI_LETTERS[int(body) % 23] == number[8]


def codice_fiscale(number: str) -> bool:
    """An Italian codice fiscale: the last letter follows from the others (D.M. 23 December 1976, art. 7)."""
    if len(number) != 16 or not (number.isascii() and number.isalnum()):
        return False
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    values = [int(mark, 36) - (0 if mark in _DIGITS else 10) for mark in number[:15]]
    checksum = sum(odd[value] for value in values[::2]) + sum(values[1::2])
    return chr(ord("A") + checksum % 26) == number[15]


def bsn(number: str) -> bool:
    """A Dutch BSN: the "elfproef" with the weights 9 to 2 and -1 (Logisch Ontwerp BSN)."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return (
        _all_digits(number) and len(number) == 9 and int(number) > 0 and _weighted(number, weights) % 11 == 0
    )


def pesel(number: str) -> bool:
    """A Polish PESEL: weights 1, 3, 7, 9 modulo 10, and a date whose month tells the century (gov.pl)."""
    if not _all_digits(number) or len(number) != 11:
        return False
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)
    return _weighted(number, weights) % 10 == 0 and _is_day(number[4:6], str(int(number[2:4]) % 20))


def rijksregister(number: str) -> bool:
    """A Belgian national number: 97 less the rest modulo 97, with a 2 before it from the year 2000 on
    (Royal Decree of 3 April 1984)."""
    if not _all_digits(number) or len(number) != 11 or not _is_day(number[4:6], number[2:4]):
        return False
    return int(number[9:]) in (97 - int(number[:9]) % 97, 97 - int("2" + number[:9]) % 97)


def personnummer(number: str) -> bool:
    """A Swedish personal number of 10 or 12 digits: a date, 60 added for a coordination number, and Luhn
    (Skatteverket, SKV 704)."""
    short = number[-10:]
    if not _all_digits(number) or len(number) not in (10, 12):
        return False
    return _is_day(str(int(short[4:6]) % 60), short[2:4]) and luhn(short)


def hetu(number: str) -> bool:
    """A Finnish personal identity code: a date, and the rest modulo 31 (DVV, "Personal identity code")."""
    body = number[:6] + number[7:10]
    if len(number) != 11 or not _all_digits(body) or not _is_day(number[:2], number[2:4]):
        return False
    return _HETU_MARKS[int(body) % 31] == number[10]


def cpr(number: str) -> bool:
    """A Danish CPR number as far as it can be told: it begins with a date. Since 2007 its last digit checks
    nothing (CPR-kontoret)."""
    return _all_digits(number) and len(number) == 10 and _is_day(number[:2], number[2:4])


def fodselsnummer(number: str) -> bool:
    """A Norwegian national identity number: a date and two digits modulo 11 (Skatteetaten)."""
    first, second = (3, 7, 6, 1, 8, 9, 4, 5, 2, 1), (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)
    if not _all_digits(number) or len(number) != 11 or not _is_day(str(int(number[:2]) % 40), number[2:4]):
        return False
    return _weighted(number[:10], first) % 11 == 0 and _weighted(number, second) % 11 == 0


def nif(number: str) -> bool:
    """A Portuguese NIF: modulo 11 with the weights 9 to 2 (Decreto-Lei 14/2013)."""
    if not _all_digits(number) or len(number) != 9 or number[0] in "04":
        return False
    rest = _weighted(number[:8], range(9, 1, -1)) % 11
    return int(number[8]) == (0 if rest < 2 else 11 - rest)


def cpf(number: str) -> bool:
    """A Brazilian CPF: two check digits modulo 11 (Receita Federal, Instrução Normativa 1548/2015)."""
    return (
        len(number) == 11 and len(set(number)) > 1 and _brazilian(number, range(10, 1, -1), range(11, 1, -1))
    )


def cnpj(number: str) -> bool:
    """A Brazilian CNPJ: two check digits modulo 11 (Receita Federal)."""
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    return len(number) == 14 and len(set(number)) > 1 and _brazilian(number, weights[1:], weights)


def _brazilian(number: str, first: Sequence[int], second: Sequence[int]) -> bool:
    if not _all_digits(number):
        return False
    one = _weighted(number[:-2], first) * 10 % 11 % 10
    two = _weighted(number[:-1], second) * 10 % 11 % 10
    return number[-2:] == f"{one}{two}"


def aadhaar(number: str) -> bool:
    """An Indian Aadhaar number: 12 digits that begin with 2 to 9, and Verhoeff's check (UIDAI)."""
    return _all_digits(number) and len(number) == 12 and number[0] in "23456789" and verhoeff(number)


def verhoeff(number: str) -> bool:
    """The last digit is right by Verhoeff's scheme (J. Verhoeff, Error Detecting Decimal Codes, 1969)."""
    if not _all_digits(number):
        return False
    state = 0
    for place, digit in enumerate(reversed(number)):
        state = _in_dihedral_group(state, _permuted(int(digit), place % 8))
    return state == 0


def _in_dihedral_group(one: int, other: int) -> int:
    """The product in the group of a pentagon's symmetries, 0 to 4 turned and 5 to 9 flipped."""
    if one < 5:
        return (one + other) % 5 + (5 if other >= 5 else 0)
    return (one - other) % 5 + (0 if other >= 5 else 5)


def _permuted(digit: int, times: int) -> int:
    for _ in range(times):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit


def sin(number: str) -> bool:
    """A Canadian social insurance number: 9 digits that begin with neither 0 nor 8, and Luhn (ESDC)."""
    return len(number) == 9 and number[0] not in "08" and luhn(number)


def tfn(number: str) -> bool:
    """An Australian tax file number: the weights 1, 4, 3, 7, 5, 8, 6, 9, 10 modulo 11 (ATO)."""
    weights = (1, 4, 3, 7, 5, 8, 6, 9, 10)
    return _all_digits(number) and len(number) == 9 and _weighted(number, weights) % 11 == 0


def medicare(number: str) -> bool:
    """An Australian Medicare number: begins with 2 to 6, the ninth digit checks the eight before it
    (Services Australia)."""
    if not _all_digits(number) or len(number) not in (10, 11) or number[0] not in "23456":
        return False
    return _weighted(number[:8], (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == int(number[8])


def ahv(number: str) -> bool:
    """A Swiss AHV number: 756 and an EAN-13 check digit (ZAS, "AHV-Nummer")."""
    return _all_digits(number) and len(number) == 13 and _weighted(number, (1, 3) * 6 + (1,)) % 10 == 0


def ppsn(number: str) -> bool:
    """An Irish PPS number: modulo 23 over seven digits and a ninth letter (Revenue Commissioners)."""
    if len(number) not in (8, 9) or not _all_digits(number[:7]):
        return False
    ninth = _PPSN_LETTERS.find(number[8:]) if len(number) == 9 else 0
    return _PPSN_LETTERS[(_weighted(number[:7], range(8, 1, -1)) + 9 * ninth) % 23] == number[7]


def routing_number(number: str) -> bool:
    """A US routing number: the weights 3, 7, 1 modulo 10 (ABA Key to Routing Numbers)."""
    if not _all_digits(number) or len(number) != 9:
        return False
    weights = (3, 7, 1) * 3
    return int(number[:2]) in {*range(13), *range(21, 33), *range(61, 73), 80} and (
        int(number) > 0 and _weighted(number, weights) % 10 == 0
    )


def vin(number: str) -> bool:
    """A vehicle's number with a right check digit, as North America demands it (49 CFR 565.15)."""
    if len(number) != 17 or not (number.isascii() and number.isalnum()) or set(number) & set("IOQ"):
        return False
    values = [_vin_value(mark) for mark in number]
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    rest = sum(value * weight for value, weight in zip(values, weights, strict=True)) % 11
    return len(set(number)) > 4 and number[8] == ("X" if rest == 10 else str(rest))


def _vin_value(mark: str) -> int:
    if mark in _DIGITS:
        return int(mark)
    # The letters count 1 to 9 in three rows; the last row begins at S with 2.
    return int(dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789", strict=True))[mark])


def base58check(address: str) -> bool:
    """A Bitcoin address of the old form: base58 of a version, a hash and 4 bytes of double SHA-256
    (Bitcoin wiki, "Base58Check encoding")."""
    number = 0
    for mark in address:
        digit = _BASE58.find(mark)
        if digit < 0:
            return False
        number = number * 58 + digit
    if number.bit_length() > 25 * 8:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def bech32(address: str) -> bool:
    """A Bitcoin address of the new form: the checksum of BIP-173, or that of BIP-350."""
    lowered = address.lower()
    prefix, _, data = lowered.rpartition("1")
    if not prefix or address not in (lowered, address.upper()) or not set(data) <= set(_BECH32):
        return False
    values = [ord(mark) >> 5 for mark in prefix] + [0] + [ord(mark) & 31 for mark in prefix]
    return _polymod(values + [_BECH32.index(mark) for mark in data]) in (1, 0x2BC830A3)


def _polymod(values: Sequence[int]) -> int:
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            state ^= generator if top >> bit & 1 else 0
    return state


def _all_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _weighted(number: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=True))


def _is_day(day: str, month: str) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= 31
